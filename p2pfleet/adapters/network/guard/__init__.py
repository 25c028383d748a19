"""What strangers may do here, and make this node hold: limits, bans, admission."""
