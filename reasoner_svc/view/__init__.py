"""What a question sees: the device-resident run of a stream and views composed over it."""
