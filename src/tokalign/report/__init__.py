"""What people see: the terminal views."""
