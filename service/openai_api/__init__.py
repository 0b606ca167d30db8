"""The OpenAI surface: what each endpoint accepts, and what it sends back."""
