// Appends a run's events as they happen; the server sends what was missed when the connection comes back.
"use strict";
const body = document.getElementById("events");
if (body.dataset.live) {
  const note = document.getElementById("live");
  const source = new EventSource(body.dataset.live);
  const show = (message) => {
    const event = JSON.parse(message.data);
    const row = body.insertRow();
    for (const text of [event.seq, event.time, event.type, event.step, event.line]) {
      row.insertCell().textContent = text;
    }
    row.cells[0].className = "number";
    if (event.type === "run_finished") {
      source.close();
      location.reload();
    }
  };
  for (const kind of body.dataset.kinds.split(" ")) source.addEventListener(kind, show);
  source.onopen = () => { note.textContent = "Live."; };
  source.onerror = () => { note.textContent = "The connection was lost; trying again."; };
}
