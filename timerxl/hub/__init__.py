"""Publishing a run to the Hugging Face Hub: what is sent, its card, the upload and its failures."""
