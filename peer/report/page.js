// What is told where the pointer is: the titles of the charts' parts, at once and beside the pointer; also on touch.
const tip = document.getElementById("tip");
for (const title of document.querySelectorAll("svg title")) {
  const part = title.parentNode;
  part.told = title.textContent;
  title.remove();
}
function tell(event) {
  let part = event.target;
  while (part && part.told === undefined) part = part.parentNode;
  tip.textContent = part ? part.told : "";
  if (!part) return;
  const box = tip.getBoundingClientRect();
  tip.style.left = Math.max(6, Math.min(event.clientX + 14, innerWidth - box.width - 6)) + "px";
  tip.style.top = (event.clientY + box.height + 26 < innerHeight ? event.clientY + 16 : event.clientY - box.height - 12) + "px";
}
document.addEventListener("pointermove", tell);
document.addEventListener("pointerdown", tell);
document.addEventListener("scroll", () => { tip.textContent = ""; }, true);
