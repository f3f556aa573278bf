"""Programs that use wcgc; run them from the root of the repository."""
