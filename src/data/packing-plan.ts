/** Which lengths share a row. */

/**
 * Rows of at most `capacity` for the given lengths, by best fit decreasing: the longest first, each into the row that it leaves the least room in
 * (Johnson, "Near-optimal bin packing algorithms"); a row holds no more than 11/9 of what the best packing needs. Each row lists indices of `lengths`.
 */
export function packRows(lengths: readonly number[], capacity: number): number[][] {
  const byLength = lengths.map((_, index) => index).sort((a, b) => lengths[b]! - lengths[a]! || a - b);
  const rows: number[][] = [];
  /** The rows that have so much room left; those with the same room are alike, so the last one serves. */
  const withRoom: number[][] = Array.from({ length: capacity + 1 }, () => []);
  for (const index of byLength) {
    const length = lengths[index]!;
    let room = length;
    while (room < capacity && withRoom[room]!.length === 0) room++;
    const row = withRoom[room]!.pop() ?? rows.push([]) - 1;
    rows[row]!.push(index);
    withRoom[room - length]!.push(row);
  }
  return rows;
}
