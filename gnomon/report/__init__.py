"""One self-contained page from a study's folders: every number in it is a cell of a table, shown with its source."""
