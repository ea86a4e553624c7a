"""The engines that train and predict, and the choice between them."""
