"""What peprof brings itself: synthetic reviews, and a small encoder that was pre-trained on such text."""
