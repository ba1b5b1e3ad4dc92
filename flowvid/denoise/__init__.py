"""Denoising: schedules over the noise level, denoisers, and samplers that walk from noise to data."""
