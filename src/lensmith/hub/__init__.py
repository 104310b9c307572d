"""The Hugging Face hub: atomic, resumable downloads (`download`) and its errors in one sentence each (`errors`)."""
