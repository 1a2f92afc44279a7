"""Terminal views and summaries of artifacts, and the HTML report."""
