"""Reports for eyes and for other tools."""
