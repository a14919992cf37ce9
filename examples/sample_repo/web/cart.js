// The cart of the page: lines of {name, price, quantity}, prices in cents.

export function total(lines) {
  return lines.reduce((sum, line) => sum + line.price, 0);
}

export function count(lines) {
  return lines.reduce((sum, line) => sum + line.quantity, 0);
}
