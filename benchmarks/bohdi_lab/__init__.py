"""What Bohdi's exploration is measured on: simulated nodes, trees and learners, real logs, and a million episodes."""
