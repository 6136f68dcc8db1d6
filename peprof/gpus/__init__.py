"""What is known of NVIDIA's GPUs without having one: names, datasheets, and torch's rules for their memory."""
