"""Effects at the edges: the API server, Events, audit sinks."""
