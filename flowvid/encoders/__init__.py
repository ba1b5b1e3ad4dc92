"""Encoders: codecs between frames and latent states."""
