"""The Hugging Face hub: one file whole or not there (`download`), and its refusals as sentences (`errors`)."""
