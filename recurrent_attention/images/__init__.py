"""From a file, a PIL image or an array to normalised square views."""
