"""The gRPC side: servicers, the tensor codec, health, reflection and the server they live in."""
