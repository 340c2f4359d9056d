"""Downloads, archives and the files in them."""
