//! Plots against the number of Services, as SVG: both axes logarithmic, one line per dataplane.
//! Text and grid have the colour of the text around them, so that they are readable in the dark.

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use crate::result::{Row, Run};
use crate::site::{REAL_IPTABLES, REAL_NFTABLES};

/// Size of a picture; pages scale it.
const SIZE: (u32, u32) = (760, 420);
/// The colour that stands for that of text.
const TEXT: RGBColor = RGBColor(1, 2, 3);
/// Its name in SVG.
const TEXT_NAME: &str = "#010203";
/// Colours of lines, to be told apart on white and on black, by colour-blind readers too.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(86, 180, 233),
    RGBColor(0, 158, 115),
    RGBColor(213, 94, 0),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(128, 128, 128),
];
/// Colours where a picture stands alone.
const ALONE: &str = "<style>svg{color:#222;font-family:sans-serif}\
                     @media(prefers-color-scheme:dark){svg{color:#ddd}}</style>";

/// A line: its name, and (Services, value).
type Line = (String, Vec<(f64, f64)>);

/// Every plot there are figures for.
pub fn all(run: &Run) -> Result<Vec<String>> {
    let plots = [
        ("A new TCP connection: connect(), us", connects(run, |row| row.time_us.median)),
        ("A new TCP connection: CPU, us", connects(run, |row| row.cpu_us.median)),
        ("One endpoint changed: ms until it is obeyed (median)", updates(run)),
        ("The same from a real API server's PATCH, sent", real_changes(run)),
        ("Memory, MiB", memory(run)),
    ];
    let wanted = plots.into_iter().filter(|(_, lines)| !lines.is_empty());
    wanted.map(|(title, lines)| plot(title, &lines)).collect()
}

/// The picture that stands alone: connect() against the number of Services.
pub fn connect(run: &Run) -> Result<String> {
    let lines = connects(run, |row| row.time_us.median);
    let svg = plot("A new TCP connection: connect(), us, by number of Services", &lines)?;
    Ok(svg.replacen('>', &format!(">{ALONE}"), 1))
}

fn connects(run: &Run, figure: fn(&Row) -> f64) -> Vec<Line> {
    let Some(group) = run.groups.iter().find(|group| group.key == "tcp-connect") else {
        return Vec::new();
    };
    let kinds = [
        ("Millrace socket path", "hot"),
        ("Millrace socket path", "random"),
        ("Millrace packet path", "hot"),
        ("kube-proxy nftables", "hot"),
        ("kube-proxy iptables", "hot"),
        (REAL_NFTABLES, "hot"),
        (REAL_IPTABLES, "hot"),
    ];
    let of = |(dataplane, target): (&str, &str)| {
        let rows = group.lanes.iter();
        let rows = rows.filter(|row| row.dataplane == dataplane && row.target == target);
        let name =
            if target == "hot" { dataplane.into() } else { format!("{dataplane}, {target}") };
        (name, points(rows.map(|row| (row.services, figure(row)))))
    };
    let mut lines: Vec<Line> = kinds.into_iter().map(of).collect();
    let most = group.lanes.iter().map(|row| row.services).max().unwrap_or(1);
    if let Some(direct) = group.lanes.first() {
        lines.push(("no Service".into(), points([1, most].map(|n| (n, figure(direct))))));
    }
    lines.retain(|(_, points)| !points.is_empty());
    lines
}

fn points(all: impl IntoIterator<Item = (u32, f64)>) -> Vec<(f64, f64)> {
    // A logarithm knows no zero.
    let drawn = all.into_iter().filter(|(services, value)| *services > 0 && *value > 0.0);
    drawn.map(|(services, value)| (f64::from(services), value)).collect()
}

/// Lines by name, in the order in which names come.
fn by_name<'a>(all: impl Iterator<Item = (&'a str, u32, f64)>) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for (name, services, value) in all {
        let new = points([(services, value)]);
        match lines.iter_mut().find(|(known, _)| known == name) {
            Some((_, points)) => points.extend(new),
            None => lines.push((name.to_owned(), new)),
        }
    }
    lines.retain(|(_, points)| !points.is_empty());
    lines
}

fn updates(run: &Run) -> Vec<Line> {
    let updates = run.updates.iter();
    by_name(updates.map(|update| (update.what.as_str(), update.services, update.p50_ms)))
}

/// From the sending: a change that is obeyed before the answer is there has no logarithm.
fn real_changes(run: &Run) -> Vec<Line> {
    let changed = run.real.iter().filter_map(|real| {
        let changes = real.changes.as_ref()?;
        Some((real.what.as_str(), real.services, changes.sent_p50_ms))
    });
    by_name(changed)
}

fn memory(run: &Run) -> Vec<Line> {
    let agent = run.loads.iter().filter(|load| load.steady_mib.is_some());
    let resident = agent
        .clone()
        .map(|load| ("Millrace's agent", load.services, load.steady_mib.unwrap_or_default()));
    let maps =
        agent.map(|load| ("Millrace's maps", load.services, load.kernel_mib.unwrap_or_default()));
    let rules = run.loads.iter().filter(|load| load.what.starts_with("kube-proxy"));
    let tools = rules.map(|load| (load.what.as_str(), load.services, load.peak_mib));
    by_name(resident.chain(maps).chain(tools))
}

fn plot(title: &str, lines: &[Line]) -> Result<String> {
    let mut svg = String::new();
    draw(&mut svg, title, lines).map_err(|error| anyhow!("draw {title}: {error}"))?;
    Ok(svg.replace(TEXT_NAME, "currentColor").replace(r#" font-family="sans-serif""#, ""))
}

fn draw(svg: &mut String, title: &str, lines: &[Line]) -> Result<(), Box<dyn std::error::Error>> {
    let all = || lines.iter().flat_map(|(_, points)| points);
    let ends = |pick: fn(&(f64, f64)) -> f64| {
        let low = all().map(pick).fold(f64::MAX, f64::min);
        (low, all().map(pick).fold(f64::MIN, f64::max))
    };
    let ((left, right), (low, high)) = (ends(|point| point.0), ends(|point| point.1));
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    let text = |size: i32| ("sans-serif", size).into_font().color(&TEXT);
    let mut chart = ChartBuilder::on(&area)
        .caption(title, text(18))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(56)
        .build_cartesian_2d((left..right * 1.2).log_scale(), (low * 0.7..high * 1.5).log_scale())?;
    chart
        .configure_mesh()
        .axis_style(TEXT)
        .bold_line_style(TEXT.mix(0.2))
        .light_line_style(TEXT.mix(0.05))
        .label_style(text(13))
        .x_desc("Services")
        .x_label_formatter(&|value| crate::tables::thousands(*value as u32))
        .draw()?;
    for ((name, points), colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        let style = colour.stroke_width(3);
        chart
            .draw_series(LineSeries::new(points.iter().copied(), style).point_size(4))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .label_font(text(13))
        .draw()?;
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::Update;

    fn run() -> Run {
        let update = |services, p50_ms| Update {
            what: "Millrace".into(),
            services,
            p50_ms,
            ..Update::default()
        };
        Run { updates: vec![update(1, 0.5), update(1000, 0.7)], ..Run::default() }
    }

    #[test]
    fn a_plot_has_its_lines_and_no_colour_of_text_of_its_own() {
        let plots = all(&run()).unwrap();
        assert_eq!(plots.len(), 1, "there are figures for one");
        assert!(plots[0].contains("Millrace") && plots[0].contains("polyline"), "{}", plots[0]);
        assert!(plots[0].contains("currentColor") && !plots[0].contains(TEXT_NAME));
    }

    #[test]
    fn zero_has_no_place_on_a_logarithmic_axis() {
        assert_eq!(points([(1, 0.0), (0, 2.0), (3, 4.0)]), [(3.0, 4.0)]);
    }
}
