"""Who may use the servers that run on this machine: their owner, and no web page and no other user."""
