// Tables as text for table programs.

/** Returns rows as CSV; texts that a table program would run as a formula are made plain. */
export function csv(rows) {
  return rows.map((row) => row.map(quoted).join(",")).join("\r\n").concat("\r\n");
}

function quoted(value) {
  const text = String(value ?? "");
  const plain = /^[=+\-@\t]/.test(text) && Number.isNaN(Number(text)) ? `'${text}` : text;
  return /[",\r\n]/.test(plain) ? `"${plain.replaceAll('"', '""')}"` : plain;
}
