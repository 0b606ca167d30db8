"""Black-box tests of the gateway: the live service on a socket, scripted upstreams behind it, real clients in front."""
