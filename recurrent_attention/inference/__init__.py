"""Pictures in, class names and explanations out."""
