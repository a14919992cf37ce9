"""A small web shop: prices, a cart, the stock, and texts for its pages."""
