"""Experiments on flowvid: each module makes one set of results. They import flowvid; flowvid never imports them."""
