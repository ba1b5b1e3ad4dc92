"""Networks: blocks that map arrays to arrays and know nothing of video, time or training."""
