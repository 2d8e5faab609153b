"""Pictures of a representation, and runs side by side."""
