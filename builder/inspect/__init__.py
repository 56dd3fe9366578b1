"""Looking into images: tables of layers, and what they cost."""
