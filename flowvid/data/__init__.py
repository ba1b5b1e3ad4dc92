"""What moves, and what moving pictures are made of: exact motions, real handwritten digits, and clips of them."""
