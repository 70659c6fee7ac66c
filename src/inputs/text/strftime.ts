const days = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const months = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"];

/** A date as C's strftime writes it in the C locale, local time. Codes it does not know stay as they are. */
export function strftime(date: Date, format: string): string {
  const pad = (n: number, width = 2) => String(n).padStart(width, "0");
  const hour12 = date.getHours() % 12 || 12;
  const dayOfYear = () => {
    const midnight = (day: Date) => Date.UTC(day.getFullYear(), day.getMonth(), day.getDate());
    return Math.round((midnight(date) - Date.UTC(date.getFullYear(), 0, 1)) / 86_400_000) + 1;
  };
  const codes: Record<string, () => string> = {
    a: () => days[date.getDay()]!.slice(0, 3),
    A: () => days[date.getDay()]!,
    b: () => months[date.getMonth()]!.slice(0, 3),
    B: () => months[date.getMonth()]!,
    d: () => pad(date.getDate()),
    e: () => String(date.getDate()).padStart(2),
    F: () => strftime(date, "%Y-%m-%d"),
    H: () => pad(date.getHours()),
    I: () => pad(hour12),
    j: () => pad(dayOfYear(), 3),
    m: () => pad(date.getMonth() + 1),
    M: () => pad(date.getMinutes()),
    p: () => (date.getHours() < 12 ? "AM" : "PM"),
    S: () => pad(date.getSeconds()),
    T: () => strftime(date, "%H:%M:%S"),
    u: () => String(date.getDay() || 7),
    y: () => pad(date.getFullYear() % 100),
    Y: () => String(date.getFullYear()),
    "%": () => "%",
  };
  // `%-d` leaves the padding out.
  return format.replace(/%(-?)([a-zA-Z%])/g, (whole, bare: string, code: string) => {
    const text = Object.hasOwn(codes, code) ? codes[code]!() : undefined;
    return text === undefined ? whole : bare ? text.replace(/^[0 ]+(?=.)/, "") : text;
  });
}
