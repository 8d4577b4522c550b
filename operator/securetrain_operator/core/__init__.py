"""Pure decisions: no input or output in this package."""
