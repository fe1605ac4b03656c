"""What people look at: the live view, figures, and the HTML report."""
