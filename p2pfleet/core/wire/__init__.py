"""What travels: canonical MessagePack, one type a message; names of topics and protocols."""
