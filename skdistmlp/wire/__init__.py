"""How shards talk to each other: packets, handshake, a communicator over sockets."""
