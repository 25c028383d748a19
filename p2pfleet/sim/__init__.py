"""The simulator: the core of real nodes in a world made of one heap and one seed."""
