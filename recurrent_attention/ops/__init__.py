"""Where to look, as functions of tensors."""
