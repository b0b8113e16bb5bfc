"""What data teams do with many cases: find the strange ones, ask for some, put them together, hand them on."""
