"""A run folder: what it holds and how it begins (`folder`), its predictions, and files that are whole or not there."""
