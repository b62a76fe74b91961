"""A trained cell as a model folder of the Hub, with its card, its results and what proves them."""
