"""What travels: canonical MessagePack, one type a message, and the names of topics and protocols."""
