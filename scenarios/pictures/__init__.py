"""What is learned from pixels: Atari, ViZDoom, a small world of ours, and classes of digits."""
