"""Small generative models of images, trained here: data, families, and the one loop that trains them all."""
