"""A person as the editor: a page on this machine, and what it needs. Nothing here is fetched from anywhere."""
