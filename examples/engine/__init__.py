"""What trains networks for `examples.paper` and `examples.study`: resumable, many runs at once."""
