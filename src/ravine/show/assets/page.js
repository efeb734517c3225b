"use strict";
// Unpacks Plotly from the page itself, then draws one figure after another so that the page never stalls.
(async () => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const templates = JSON.parse(document.getElementById("templates").textContent);
  const config = {
    displaylogo: false,
    responsive: true,
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d"],
  };
  const plots = [...document.querySelectorAll(".plot")];

  for (const button of document.querySelectorAll("button.copy")) {
    button.addEventListener("click", async () => {
      const text = document.getElementById(button.dataset.of);
      try {
        await navigator.clipboard.writeText(text.textContent);
        button.textContent = "Copied";
      } catch {
        // Some browsers give local files no clipboard: select the text, so that one key press copies it.
        getSelection().selectAllChildren(text);
        button.textContent = "Selected: press Ctrl+C";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 2500);
    });
  }
  if (!plots.length) return;

  const draw = (plot) => {
    const { data, layout } = JSON.parse(plot.nextElementSibling.textContent);
    layout.template = dark.matches ? templates.dark : templates.light;
    // Cells let the page through, so their text must be of the page's colour.
    for (const trace of data) if (trace.type === "heatmap") trace.textfont = { color: layout.template.layout.font.color };
    return Plotly.react(plot, data, layout, config);
  };

  try {
    const packed = atob(document.getElementById("plotly-gzip").textContent);
    const bytes = Uint8Array.from(packed, (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  } catch (error) {
    for (const plot of plots) plot.textContent = `This browser cannot draw the figure (${error.message}).`;
    return;
  }
  for (const plot of plots) {
    await draw(plot);
    await new Promise((resolve) => setTimeout(resolve));
  }
  document.documentElement.dataset.drawn = plots.length;
  dark.addEventListener("change", () => plots.forEach(draw));
})();
