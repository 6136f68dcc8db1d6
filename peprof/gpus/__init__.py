"""What is known of NVIDIA's GPUs without having one: names, datasheets, torch's rules for their memory."""
