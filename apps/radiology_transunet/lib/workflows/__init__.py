"""The use cases, composed of the rooms."""
