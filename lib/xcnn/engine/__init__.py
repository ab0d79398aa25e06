"""How a method looks inside any network, and leaves no trace: see README.md in this folder."""
