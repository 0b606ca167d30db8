"""The live proof of thought templates: built from answers, shown or not, and a router that learns when to show them."""
